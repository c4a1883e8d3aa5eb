"""Search over next-scale autoregressive picture models: TTS-VAR and what it is compared with."""
