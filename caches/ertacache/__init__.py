"""ERTACache: whole denoiser evaluations reused by a calibrated schedule, and their error mended."""
