import pytest
import torch

from rsd.tasks.inverse.operators.kernels import gaussian_kernel, given_kernel, motion_kernel, scaled_width


@pytest.mark.parametrize(("size", "width"), [(512, 61), (256, 31), (128, 15), (64, 7), (16, 3), (1024, 123)])
def test_width_is_61_at_512_and_odd(size, width):
    assert scaled_width(size) == width and width % 2 == 1


@pytest.mark.parametrize("size", [64, 256, 512])
def test_kernels_are_weights_of_sum_one(size):
    for kernel in (gaussian_kernel(size), *(motion_kernel(size, seed=seed) for seed in range(20))):
        assert kernel.shape == (scaled_width(size),) * 2 and kernel.dtype == torch.float32
        assert (kernel >= 0).all() and abs(float(kernel.double().sum()) - 1) < 1e-6


def moments(kernel):
    """Return the eigenvalues of the covariance of the kernel's mass, in pixels squared, the smaller first."""
    grid = torch.cartesian_prod(torch.arange(len(kernel)), torch.arange(len(kernel))).double()
    weight = kernel.double().flatten()
    centred = grid - weight @ grid
    return torch.linalg.eigvalsh(centred.T @ (weight[:, None] * centred))


def test_gaussian_has_its_standard_deviation():
    for size, sigma in ((512, 3.0), (256, 1.5)):
        expected = torch.full((2,), sigma**2, dtype=torch.float64)
        torch.testing.assert_close(moments(gaussian_kernel(size)), expected, rtol=1e-3, atol=0)
    k = gaussian_kernel(512)
    assert torch.equal(k, k.T) and int(k.argmax()) == 30 * 61 + 30


def test_intensity_makes_the_motion_crooked():
    def crookedness(intensity):
        ratios = [moments(motion_kernel(512, seed=seed, intensity=intensity)) for seed in range(20)]
        return float(torch.stack([small / large for small, large in ratios]).mean())

    straight, paper, wild = (crookedness(intensity) for intensity in (0.0, 0.09, 1.0))
    assert straight < 0.003 and straight < paper < wild and wild > 0.1


def test_straight_motion_is_as_long_as_it_says():
    for seed in range(20):
        spread = float(moments(motion_kernel(512, seed=seed, intensity=0.0))[1])
        length = (12 * spread) ** 0.5 / 60
        assert 0.49 < length < 0.91


def test_a_seed_has_the_same_path_at_every_size():
    large, small = motion_kernel(512, seed=1), motion_kernel(256, seed=1)
    a, b = moments(large) / 60**2, moments(small) / 30**2
    torch.testing.assert_close(a, b, rtol=0.05, atol=1e-3)


def test_kernel_files(tmp_path):
    import numpy as np
    from safetensors.torch import save_file

    kernel = torch.rand(5, 3)
    np.save(tmp_path / "k.npy", kernel.numpy())
    save_file({"kernel": kernel}, tmp_path / "k.safetensors")
    for path in (tmp_path / "k.npy", tmp_path / "k.safetensors"):
        torch.testing.assert_close(given_kernel(path), kernel / kernel.sum())
    torch.testing.assert_close(given_kernel(kernel), kernel / kernel.sum())


def test_kernel_from_a_png(tmp_path):
    from PIL import Image

    image = Image.new("L", (3, 3), 0)
    image.putpixel((0, 1), 200)
    image.putpixel((2, 1), 50)
    image.save(tmp_path / "k.png")
    expected = torch.tensor([[0, 0, 0], [0.8, 0, 0.2], [0, 0, 0]])
    torch.testing.assert_close(given_kernel(tmp_path / "k.png"), expected, rtol=0, atol=1e-6)


def test_no_pickle_is_loaded(tmp_path):
    import numpy as np

    np.save(tmp_path / "k.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save(torch.ones(3, 3), tmp_path / "k.pt")
    with pytest.raises(ValueError, match="not an array of numbers"):
        given_kernel(tmp_path / "k.npy")
    with pytest.raises(ValueError, match=r"not an image, \.npy or \.safetensors"):
        given_kernel(tmp_path / "k.pt")


def test_wrong_kernel_files(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="does not exist"):
        given_kernel(tmp_path / "none.npy")
    save_file({"a": torch.ones(3, 3), "b": torch.ones(3, 3)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="holds 2 tensors"):
        given_kernel(tmp_path / "two.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        given_kernel(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (torch.ones(4, 3), "both odd"),
        (torch.ones(3), "both odd"),
        (torch.zeros(3, 3), "positive sum"),
        (torch.full((3, 3), float("inf")), "finite"),
    ],
)
def test_invalid_kernels_are_rejected(kernel, words):
    with pytest.raises(ValueError, match=words):
        given_kernel(kernel)
