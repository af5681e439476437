"""Local mutual information between radiograph regions and report sentences: what MONAI has not."""
