//! The whole of Podless on a real cluster: what a user does, what goes wrong, and what must not be lost meanwhile.
//! One program, so that it is linked once.

mod adapter;
mod admin;
mod components;
mod connections;
mod crashes;
mod crds;
mod examples;
mod faults;
mod hpa;
mod limits;
mod maintenance;
mod mistakes;
mod scaling;
mod scaling_cpu;
mod slow;
mod spec;
mod tokens;
mod update;
mod way;
