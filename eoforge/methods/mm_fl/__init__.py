"""MM-FL: silos that hold different sensors learn one classifier; see README.md."""
