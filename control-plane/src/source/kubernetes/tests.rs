//! Does the source tell what the server has, whatever the server does?
