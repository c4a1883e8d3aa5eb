"""On narrow screens results lie below the controls; there a press of a button goes to them."""

SCROLL = """() => {{
  if (window.innerWidth < 700) {{
    document.getElementById("{}").scrollIntoView({{behavior: "smooth"}});
  }}
}}"""
"""JavaScript; format it with the id of an element."""
