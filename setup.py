"""Package metadata; `pip install -e ".[test]"` for development."""

from pathlib import Path

from setuptools import find_packages, setup


DOCS = ["mkdocs-material", "mkdocstrings[python]"]  # 120 MB
EXPORT = ["onnx", "onnxruntime", "onnxscript"]  # 120 MB

setup(
    name="videoms_hf",
    version="0.1.0",
    description="Self-supervised video learning on motion-rich tokens (VideoMS) for Hugging Face Transformers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # Scripts, recipes and the card's template are at the top of the repository, and inside the installed package.
    packages=[*find_packages(include=["videoms_hf", "videoms_hf.*"]), "videoms_hf.scripts", "videoms_hf.model_cards"],
    package_dir={"videoms_hf.scripts": "scripts", "videoms_hf.model_cards": "model_cards"},
    package_data={
        "videoms_hf.scripts": ["recipes/*/*.yaml", "accelerate/*", "space/*"],
        "videoms_hf.model_cards": ["template.md"],
        "videoms_hf.data": ["class_names/*.txt"],
    },
    entry_points={"console_scripts": ["videoms = videoms_hf.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "transformers>=5.17",
        "accelerate>=1.1",
        "datasets>=4.0",
        "evaluate>=0.4.6",
        "huggingface_hub>=1.0",
        "av>=17.1",  # 15 and 16 crash in the decoder's tests
        "pillow",
        "pyyaml",
        "jinja2",
    ],
    extras_require={
        "test": [
            "matplotlib",
            "psutil",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff==0.17.6",
            "setuptools>=70.1",  # builds the wheel that the tests install
            "peft",
            "tensorboard",
            *DOCS,
            *EXPORT,
        ],
        "benchmarks": ["matplotlib"],
        "charts": ["matplotlib"],
        "docs": DOCS,
        "export": EXPORT,
        "space": ["gradio>=6.31,<7"],
        "browser": ["gradio>=6.31,<7", "selenium"],  # tests/test_space_browser.py
        "tensorboard": ["tensorboard"],
    },
)
