//! The memory of a server, and whether it grows.
//!
//! Must not know: what it was doing.

use anyhow::Context;

use crate::harness::Recado;

/// What a server has in memory, in MiB.
///
/// # Errors
/// When it ended, or this system does not say.
pub fn resident_mib(recado: &Recado) -> anyhow::Result<f64> {
    let pid = recado.pid().context("it ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// A straight line through samples at even distances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// From the first sample to the last, along the line.
    pub over_all: f64,
    /// How far samples lie from the line: the root of the mean square.
    pub noise: f64,
}

/// The line of least squares.
pub fn growth(samples: &[f64]) -> Growth {
    let n = samples.len().max(1) as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, samples.iter().sum::<f64>() / n);
    let at = |x: usize| x as f64 - mean_x;
    let spread: f64 = (0..samples.len()).map(|x| at(x) * at(x)).sum();
    let together: f64 = samples.iter().enumerate().map(|(x, y)| at(x) * (y - mean_y)).sum();
    let slope = if spread > 0.0 { together / spread } else { 0.0 };
    let residual: f64 = samples.iter().enumerate().map(|(x, y)| (y - mean_y - slope * at(x)).powi(2)).sum();
    Growth { over_all: slope * (n - 1.0), noise: (residual / n).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_whatever_lies_around_it() {
        let flat = growth(&[50.0, 51.0, 50.0, 51.0, 50.0]);
        assert!(flat.over_all.abs() < 0.01 && (0.4..0.6).contains(&flat.noise), "{flat:?}");
        let rising = growth(&[10.0, 12.0, 14.0, 16.0]);
        assert!((rising.over_all - 6.0).abs() < 1e-9 && rising.noise < 1e-9, "{rising:?}");
        assert_eq!(growth(&[]), Growth { over_all: 0.0, noise: 0.0 });
    }
}
