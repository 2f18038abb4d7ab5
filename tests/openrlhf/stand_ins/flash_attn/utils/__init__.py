"""The folder of `distributed`."""
