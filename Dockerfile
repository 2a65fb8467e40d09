# An image that predicts with one exported model, by the contract of the FLARE challenges: docs/how-to-flare-docker.md
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# cpu: OpenVINO, without PyTorch; cuda: PyTorch
ARG DEVICE=cpu
# pip reads these: a mirror, or PyTorch built for an older CUDA
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/venv
COPY docker/requirements.txt docker/requirements-${DEVICE}.txt /build/
RUN /opt/venv/bin/pip install --no-cache-dir -r /build/requirements-${DEVICE}.txt
COPY pyproject.toml README.md LICENSE /build/source/
COPY nnunet_partial /build/source/nnunet_partial
COPY trainers /build/source/trainers
COPY dataset_conversion /build/source/dataset_conversion
# without the dependencies of training
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps /build/source
# a folder of nnUNetv2_partial_export, in the folder model/
ARG MODEL=model
COPY ${MODEL} /opt/model
COPY docker/check_model.py /build/
RUN /opt/venv/bin/python /build/check_model.py /opt/model ${DEVICE}
# readable by any user, writable by none but root
RUN chmod -R u=rwX,go=rX /opt/model

FROM ${BASE_IMAGE}
ARG DEVICE=cpu
ARG USER_ID=1000
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
# a user that the image does not know has no name and no home, which some libraries ask for
ENV HOME=/tmp USER=predict
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV NNUNET_PARTIAL_DEVICE=${DEVICE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/model /opt/model
WORKDIR /workspace
COPY docker/predict.sh /workspace/predict.sh
RUN mkdir inputs outputs && chown ${USER_ID} outputs
USER ${USER_ID}
# no ENTRYPOINT: the challenges give a command of their own, /bin/bash -c "sh predict.sh"
CMD ["sh", "predict.sh"]
