"""The benchmark of prediction: what nnU-Net, a pipeline like TotalSegmentator's, and this package take, in turn.

    python -m tests.bench.inference -o bench_inference

Each measurement is one JSON file under the output folder, so that an interrupted benchmark goes on where it stopped.
Competitors are measured one after the other, round by round; ratios are of the same round, and reported as medians.
"""
