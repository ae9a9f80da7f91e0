//! Are the definitions in `deploy/crds/` right: in our own eyes, and in an API server's?

#[cfg(test)]
mod generated;
#[cfg(test)]
mod real;
