"""SPCT, framework-free: what is right, what is kept, what is learnt from."""
