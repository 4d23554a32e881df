"""From image files to what networks for ImageNet take, and from scores to names."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fastcnn import models

Image = pytest.importorskip("PIL.Image")


def picture(height: int, width: int) -> np.ndarray:
    """Red grows from left to right, green from top to bottom; all is smooth, so that resizing hardly changes it."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([red, green, np.full_like(red, 40)], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 400), (500, 300), (97, 64), (800, 1200)])
def test_the_middle_of_an_image(tmp_path, height, width):
    Image.fromarray(picture(height, width)).save(tmp_path / "image.png")
    x = models.load_image(tmp_path / "image.png")
    assert x.shape == (1, 224, 224, 3)
    assert x.dtype == np.float32
    # Of the short side 256 pixels are left, of which 224 are in the middle.
    rows, cols = (
        (np.arange(224) - 111.5) * min(height, width) / 256,
        (np.arange(224) - 111.5) * min(height, width) / 256,
    )
    np.testing.assert_allclose(x[0, :, :, 0] - (0.5 + cols / (width - 1)) * 255, 0, atol=2)
    np.testing.assert_allclose(x[0, :, :, 1].T - (0.5 + rows / (height - 1)) * 255, 0, atol=2)
    assert (x[..., 2] == 40).all()


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(256, 256, 16, 16), (256, 400, 16, 88), (301, 256, 38, 16), (256, 303, 16, 40), (259, 256, 18, 16)],
)
def test_an_image_of_256_pixels_is_only_cut(tmp_path, height, width, top, left):
    # Where an odd number of pixels is cut off, the half is rounded to even, as by torchvision.
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    x = models.load_image(str(tmp_path / "image.png"))
    assert np.array_equal(x[0], pixels[top : top + 224, left : left + 224])


@pytest.mark.parametrize("size", [64, 96, 299])
def test_other_sizes(tmp_path, size):
    Image.fromarray(picture(300, 300)).save(tmp_path / "image.jpg")
    x = models.load_image(tmp_path / "image.jpg", size)
    assert x.shape == (1, size, size, 3)
    # A sixteenth is cut off on each side.
    assert x[0, :, 0, 0].mean() == pytest.approx(255 / 16 + 0.4375 * 255 / size, abs=4)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_kinds_become_rgb(tmp_path, mode):
    image = Image.new("RGB", (40, 30), (255, 255, 255)).convert(mode)
    image.save(tmp_path / "image.png")
    assert (models.load_image(tmp_path / "image.png") == 255).all()


@pytest.mark.parametrize(("name", "dtype"), [("image.png", "<u2"), ("image.tif", "<u2"), ("image.tif", ">u2")])
def test_grey_images_of_16_bits_keep_their_greys(tmp_path, name, dtype):
    grey = np.random.default_rng(0).integers(0, 256, (256, 256))
    Image.fromarray((grey * 257).astype(dtype)).save(tmp_path / name)
    x = models.load_image(tmp_path / name)
    assert np.array_equal(x[0], np.repeat(grey[16:240, 16:240, np.newaxis], 3, axis=2))


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_images_that_do_not_say_what_is_white_are_refused(tmp_path, mode, dtype):
    Image.fromarray(np.zeros((8, 8), dtype)).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=rf"path .*8 or 16 bits a channel, got '.*image\.tif' of mode {mode}"):
        models.load_image(tmp_path / "image.tif")


@pytest.mark.parametrize(("height", "width"), [(300, 401), (640, 480), (97, 64)])
def test_the_square_is_the_middle_of_the_whole_image_resized(tmp_path, height, width):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    image.save(tmp_path / "image.png")
    tall, wide = (256 * side // min(height, width) for side in (height, width))
    top, left = round((tall - 224) / 2), round((wide - 224) / 2)
    whole = np.asarray(image.resize((wide, tall), Image.Resampling.BILINEAR), np.float32)
    # Each of two passes rounds.
    np.testing.assert_allclose(
        models.load_image(tmp_path / "image.png")[0], whole[top : top + 224, left : left + 224], rtol=0, atol=2
    )


@pytest.mark.parametrize("upright", [True, False])
def test_of_a_long_strip_the_middle_alone_is_resized(tmp_path, upright):
    pytest.importorskip("resource")
    pixels = np.zeros((60000, 1, 3), np.uint8)
    pixels[30000:] = 200  # the square takes less than a pixel, half of it from either side
    Image.fromarray(pixels if upright else pixels.swapaxes(0, 1)).save(tmp_path / "image.png")
    # In a process that may not take what all of the strip would.
    code = (
        "import resource, sys, numpy as np\n"
        "from fastcnn import models\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "x = models.load_image(sys.argv[1])[0]\n"
        "x = x if sys.argv[2] == 'True' else x.swapaxes(0, 1)\n"
        "print(x.shape, x[0, 0], x[-1, -1], np.abs(x[::-1] + x - 200).max() <= 2)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "image.png"), str(upright)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "(224, 224, 3) [13. 13. 13.] [187. 187. 187.] True\n"


@pytest.mark.parametrize("size", [8193, 2**40])
def test_a_size_that_no_network_has_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=f"size must be at most 8192, got {size}"):
        models.load_image(tmp_path / "missing.png", size)


def test_an_image_is_turned_as_its_file_says(tmp_path):
    image = Image.fromarray(picture(256, 256))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: what is at the left comes to the top
    image.save(tmp_path / "image.png", exif=exif)
    x = models.load_image(tmp_path / "image.png")[0]
    assert x[0, 112, 0] < 30 < 225 < x[-1, 112, 0]


def test_files_that_hold_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        models.load_image(tmp_path / "missing.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"path must lead to an image that Pillow can read, got '.*text.jpg'"):
        models.load_image(tmp_path / "text.jpg")
    Image.fromarray(picture(64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"path must lead to an image that Pillow can read, got '.*half.png'"):
        models.load_image(tmp_path / "half.png")
    with pytest.raises(TypeError, match="path must be a path, got 3"):
        models.load_image(3)
    with pytest.raises(ValueError, match=r"size must be .*, got 0"):
        models.load_image(tmp_path / "whole.png", 0)


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.fromarray(picture(32, 32)).save(tmp_path / "image.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"path must lead to an image .*limit of 200 pixels"):
        models.load_image(tmp_path / "image.png")


def test_without_pillow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"load_image needs Pillow: pip install 'fastcnn\[images\]'"):
        models.load_image(tmp_path / "image.jpg")


def test_preprocessing_by_hand():
    x = np.array([[[[255.0, 0.0, 127.5]]]])
    torch = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(models.preprocess(x)[0, 0, 0], torch, rtol=1e-12)
    np.testing.assert_allclose(models.preprocess(x, "torch")[0, 0, 0], torch, rtol=1e-12)
    caffe = [127.5 - 103.939, -116.779, 255 - 123.68]
    np.testing.assert_allclose(models.preprocess(x, "caffe")[0, 0, 0], caffe, rtol=1e-12)
    assert x[0, 0, 0].tolist() == [255.0, 0.0, 127.5]


@pytest.mark.parametrize("mode", ["torch", "caffe"])
def test_the_element_type_of_what_is_preprocessed(mode):
    whole = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    exact = models.preprocess(whole.astype(np.float64), mode)
    for x in (whole, whole.astype(np.float32)):
        y = models.preprocess(x, mode)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-5)
    assert exact.dtype == np.float64


@pytest.mark.parametrize(
    ("x", "mode", "error", "message"),
    [
        (np.zeros((1, 4, 4, 1)), "torch", ValueError, r"x must be images of three channels, got shape \(1, 4, 4, 1\)"),
        (3.0, "torch", ValueError, r"x must be images of three channels, got shape \(\)"),
        ("cup.jpg", "torch", TypeError, "x must hold real numbers.*'cup.jpg'"),
        (np.zeros((1, 4, 4, 3)), "tf", ValueError, "mode must be one of torch, caffe, got 'tf'"),
    ],
)
def test_what_can_not_be_preprocessed(x, mode, error, message):
    with pytest.raises(error, match=message):
        models.preprocess(x, mode)


def test_names_of_the_classes():
    names = models.imagenet_classes()
    assert len(names) == 1000
    assert len(set(names)) == 998
    # The first and last, and what trained networks say of photographs.
    some = {
        0: "tench",
        134: "crane",
        207: "golden retriever",
        404: "airliner",
        517: "crane",
        698: "palace",
        281: "tabby",
        665: "moped",
        872: "tripod",
        967: "espresso",
        999: "toilet tissue",
    }
    assert {number: names[number] for number in some} == some
    names.clear()
    assert len(models.imagenet_classes()) == 1000


def test_the_best_classes_come_first():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [967, 968, 925]] = 0.75, 0.125, 0.125
    scores[1, 0] = 1
    first, second = models.decode_predictions(scores, top=3)
    assert first == [(967, "espresso", 0.75), (925, "consomme", 0.125), (968, "cup", 0.125)]
    assert second[0] == models.Prediction(0, "tench", 1.0)
    assert [len(row) for row in models.decode_predictions(scores)] == [5, 5]


def test_fewer_classes_than_asked_for():
    assert models.decode_predictions([[1, 3]], classes=("cat", "dog")) == [[(1, "dog", 3.0), (0, "cat", 1.0)]]


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        (np.zeros((2, 10)), {}, ValueError, r"scores must have shape \(N, 1000\), .*, got \(2, 10\)"),
        (np.zeros(1000), {}, ValueError, r"scores must have shape \(N, 1000\), .*, got \(1000,\)"),
        (np.zeros((2, 1000)), {"top": 0}, ValueError, "top must be .*, got 0"),
        (np.zeros((1, 2)), {"classes": "cd"}, TypeError, "classes must be a list of names, got 'cd'"),
        (np.zeros((1, 2)), {"classes": [1, 2]}, TypeError, r"classes must be a list of names, got \[1, 2\]"),
    ],
)
def test_scores_that_can_not_be_decoded(scores, options, error, message):
    with pytest.raises(error, match=message):
        models.decode_predictions(scores, **options)
