"""One engine for all operators, blocking or deferred: requests in, stored images and a manifest out."""
