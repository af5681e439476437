"""From DICOM chest radiographs and reports to a store of images, tables and a MONAI datalist."""
