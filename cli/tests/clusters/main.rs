//! Do the commands that install the mesh and join clusters work on real API servers?

#[cfg(test)]
mod commands;
