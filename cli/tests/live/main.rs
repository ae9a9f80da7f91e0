//! Do the commands do on a mesh that runs what they say?

#[cfg(test)]
mod commands;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod replicas;
