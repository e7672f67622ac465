"""Many devices and many processes: what each holds and computes, on JAX's own engine."""
