//! The whole of Podless on a real cluster: what a user does, what goes wrong, and what must not be lost meanwhile.
//! One program, so that it is linked once.

mod crashes;
mod crds;
mod examples;
mod faults;
mod limits;
mod mistakes;
mod spec;
mod update;
mod way;
