"""Images of a folder, read ahead: NIfTI, NRRD, MHA, PNG and DICOM, as nnU-Net reads them."""
