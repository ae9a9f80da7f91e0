//! Do the commands that install the mesh and join clusters work on real API servers?

#[cfg(test)]
mod tool;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod again;
#[cfg(test)]
mod leave;
#[cfg(test)]
mod definitions;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod status;
#[cfg(test)]
mod ranges;
#[cfg(test)]
mod e2e;
