//! Kubernetes quantities. In: their text; out: bytes, or thousandths of a CPU. Pure.

/// Reads `64Mi`, `1.5M`, `67108864`, `64e6`; `None` when it is not a whole number of bytes.
pub fn bytes(quantity: &str) -> Option<u64> {
    let bytes = number(quantity)?;
    (bytes.fract() == 0.0 && bytes <= EXACT).then_some(bytes as u64)
}

/// Reads CPUs, as `2` or `50m`, in thousandths; what is finer is rounded up, as Kubernetes does.
pub(crate) fn millis(quantity: &str) -> Option<u64> {
    // 0.1 + 0.2 is a little more than 0.3: that is not finer.
    let millis = (number(quantity)? * 1e3 - 1e-6).ceil().max(0.0);
    (millis <= EXACT).then_some(millis as u64)
}

/// The largest whole number that is exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn number(quantity: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("Ti", 1099511627776.0),
        ("Pi", 1125899906842624.0),
        ("Ei", 1152921504606846976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, factor) =
        SUFFIXES.into_iter().find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, factor)))?;
    // `inf` and `nan` are numbers to Rust.
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '+') {
        return None;
    }
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubernetes_reads_them() {
        for (text, want) in [
            ("64Mi", Some(64 << 20)),
            ("1Mi", Some(1 << 20)),
            ("0.5Gi", Some(512 << 20)),
            ("1.5M", Some(1_500_000)),
            ("67108864", Some(67_108_864)),
            ("64e6", Some(64_000_000)),
            ("64000000000m", Some(64_000_000)),
            ("100k", Some(100_000)),
            ("1m", None),
            ("", None),
            ("Mi", None),
            ("-1Mi", None),
            ("infMi", None),
            ("64 Mi", None),
            ("64MiB", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn thousandths_of_a_cpu() {
        for (text, want) in [
            ("2", Some(2000)),
            ("50m", Some(50)),
            ("0.1", Some(100)),
            ("0.3", Some(300)),
            ("1930m", Some(1930)),
            ("100u", Some(1)),
            ("0", Some(0)),
            ("1k", Some(1_000_000)),
            ("-1", None),
            ("many", None),
        ] {
            assert_eq!(millis(text), want, "{text}");
        }
    }
}
