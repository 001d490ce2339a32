"""The paper's toy problem (D.10.1): two Gaussians, two particles, and how repulsion prevents their collapse."""
