//! How a load comes and goes within a minute. In: the seconds since it began; out: requests in flight. Pure.
//!
//! The shapes are those that the autoscaler's own tests replay over hours (`operator/src/autoscale/traces.rs`), compressed.

/// A shape, and its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Requests in flight, by the seconds since the start.
    pub(crate) in_flight: fn(f64) -> f64,
}

/// How long each of them is.
pub(crate) const SECONDS: f64 = 60.0;

/// All of them; the first two tell the most.
pub(crate) const SHAPES: [Shape; 5] = [
    Shape { name: "step", in_flight: |at| if (5.0..45.0).contains(&at) { 40.0 } else { 0.0 } },
    Shape { name: "spikes", in_flight: |at| if at % 15.0 >= 13.0 { 60.0 } else { 3.0 } },
    Shape { name: "ramp", in_flight: |at| if at < 40.0 { 1.5 * at } else { 3.0 * (60.0 - at) } },
    Shape { name: "diurnal", in_flight: |at| 30.0 - 28.0 * (at / 30.0 * std::f64::consts::TAU).cos() },
    Shape { name: "flapping", in_flight: |at| if at % 10.0 < 5.0 { 35.0 } else { 0.0 } },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shape_asks_for_more_than_the_machine_has() {
        for Shape { name, in_flight } in SHAPES {
            let most = (0..6000).map(|at| in_flight(f64::from(at) / 100.0)).fold(0.0, f64::max);
            assert!((30.0..=60.0).contains(&most), "{name}: {most}");
            assert!((0..6000).all(|at| in_flight(f64::from(at) / 100.0) >= 0.0), "{name}");
        }
    }
}
