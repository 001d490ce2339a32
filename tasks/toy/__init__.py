"""The paper's toy (D.10.1): two Gaussians, two particles, and how repulsion prevents their collapse."""
