//! What is said of a cluster, as its kinds come and go?
