"""The ablation benchmark: methods for partly labelled data, trained alike on hard collections and compared.

    python -m tests.bench.methods -o bench_methods

A collection is split by the seed; a method trains a small network in memory on it, without nnU-Net's preprocessing and
workers, and is scored on what was hidden from it. Methods are the trainers' recipes, so what is measured is what users
get; patches, network, optimizer, iterations and seeds are the same for all.
"""
