#!/bin/sh
# The contract of the FLARE challenges: inputs/X_0000.nii.gz -> outputs/X.nii.gz, and nothing else in outputs.
# Arguments are handed on to nnUNetv2_partial_predict. Exit status: 0 where every case was predicted.
set -eu

inputs=${NNUNET_PARTIAL_INPUTS:-/workspace/inputs}
outputs=${NNUNET_PARTIAL_OUTPUTS:-/workspace/outputs}
model=${NNUNET_PARTIAL_MODEL:-/opt/model}
device=${NNUNET_PARTIAL_DEVICE:-auto}

fail() {
    echo "predict.sh: $1" >&2
    exit 1
}

has_images() {
    for image in "$inputs"/*_0000.nii.gz; do
        [ -f "$image" ] && return
    done
    return 1
}

has_images || fail "$inputs: expected images named CASE_0000.nii.gz, found none; mount their folder there"
[ -d "$outputs" ] || fail "$outputs: no such folder; mount one there"
# where outputs is, so that predictions can be renamed instead of copied
work=$(mktemp -d "$outputs/.predict.XXXXXX") ||
    fail "$outputs: user $(id -u) cannot write there; run the container as the folder's owner (--user), or chmod a+rwx it"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

status=0
nnUNetv2_partial_predict -i "$inputs" -o "$work" -m "$model" --mode fast -device "$device" "$@" || status=$?
for image in "$inputs"/*_0000.nii.gz; do
    case=$(basename "$image" _0000.nii.gz)
    if [ -f "$work/$case.nii.gz" ]; then
        mv -f "$work/$case.nii.gz" "$outputs/$case.nii.gz"
    else
        echo "predict.sh: $case: no prediction" >&2
        [ "$status" -ne 0 ] || status=1
    fi
done
exit "$status"
