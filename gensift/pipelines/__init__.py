"""Loading pipelines: zoo models, local folders and hub ids alike."""
