//! Databases of where addresses are and what names belong to.

pub(crate) mod asn;
pub(crate) mod ip;
pub(crate) mod site;

#[cfg(test)]
mod tests;
