"""`gensift app`: a page on which the sifting can be watched."""
