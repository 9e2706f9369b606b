"""The federation service: coordinates rounds of federated learning between silos that keep their data."""
