"""The two modules that the trainer and the engine meet in to exchange weights."""
