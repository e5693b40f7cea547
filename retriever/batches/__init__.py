"""What datasets and loaders give: samples, batches of any form, labels."""
