#!/bin/sh
# Builds the image of the Dockerfile where no Docker daemon runs, and predicts with it, without a network.
# Needs root, a Debian mirror, a package index for pip, and the Debian packages buildah and debootstrap.
#
#   sh tests/docker/build_in_chroot.sh WORK MODEL INPUTS OUTPUTS [DEVICE]
#
# WORK     folder for the base image and the storage of buildah; keep it to build again faster
# MODEL    folder of nnUNetv2_partial_export
# INPUTS   folder with CASE_0000.nii.gz
# OUTPUTS  folder for the predictions
# DEVICE   cpu (default) or cuda
set -eu

[ $# -ge 4 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1" "$4"
work=$(realpath "$1") model=$(realpath "$2") inputs=$(realpath "$3") outputs=$(realpath "$4") device=${5:-cpu}
root=$(realpath "$(dirname "$0")/../..")
suite=${DEBIAN_SUITE:-bookworm}
certificates=/etc/ssl/certs/ca-certificates.crt
base=localhost/nnunet-partial-base image=localhost/nnunet-partial-predict

b() {
    command=$1
    shift
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

if ! b inspect --type image "$base" > "$work/inspect.txt" 2>&1; then
    rm -rf "$work/base"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$work/base" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$work/debootstrap.log"
    # the certificates that this machine trusts, a proxy's among them; pip would bring its own
    cp "$certificates" "$work/base$certificates"
    printf '[global]\ncert = %s\n' "$certificates" > "$work/base/etc/pip.conf"
    container=$(b from scratch)
    b copy --quiet "$container" "$work/base" / > "$work/copy.txt"
    b commit --quiet --rm "$container" "$base" > "$work/commit.txt"
    rm -rf "$work/base"
fi

# a copy, because the model must lie in the build context and the repository is left alone
rm -rf "$work/context"
mkdir "$work/context"
cd "$root"
cp -R Dockerfile .dockerignore LICENSE README.md pyproject.toml dataset_conversion docker nnunet_partial trainers \
    "$work/context"
cp -R "$model" "$work/context/model"
b bud --isolation chroot --pull-never --build-arg BASE_IMAGE="$base" --build-arg DEVICE="$device" \
    --tag "$image" "$work/context"

# as the challenges run it: the folders mounted, the command theirs; by the owner of the output folder
container=$(b from --pull-never "$image")
trap 'b rm "$container" > "$work/rm.txt"' EXIT
unshare --net buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs run --isolation chroot \
    --user "$(stat -c %u:%g "$outputs")" --volume "$inputs:/workspace/inputs:ro" \
    --volume "$outputs:/workspace/outputs" "$container" -- /bin/bash -c "sh predict.sh"
