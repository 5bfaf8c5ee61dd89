//! The whole of Podless on a real cluster: what a user does, what goes wrong, and what must not be lost meanwhile.
//! One program, so that it is linked once.

mod adapter;
mod admin;
mod audit;
mod compile;
mod components;
mod connections;
mod crashes;
mod crds;
mod examples;
mod faults;
mod hosts;
mod hpa;
mod instances;
mod limits;
mod maintenance;
mod mistakes;
mod policy;
mod registries;
mod scaling;
mod scaling_cpu;
mod signatures;
mod slow;
mod spec;
mod tokens;
mod trust;
mod update;
mod way;
