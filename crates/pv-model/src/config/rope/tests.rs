//! The numbers come from `transformers` 5.23.0: `LlamaRotaryEmbedding` at position 300.

use super::*;

/// PyTorch's vectorised `pow`, `cos` and `sin` may differ from the platform's in the last bit.
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 2.5e-7 * expected.abs().max(f32::MIN_POSITIVE), "{found} {expected}");
    }
}

fn assert_table(rope: &RopeConfig, cos: &[f32], sin: &[f32]) {
    let table = RotaryTable::new(rope, 2 * cos.len(), 301);
    assert_eq!((table.positions, table.half), (301, cos.len()));
    for (found, expected) in [(&table.cos, cos), (&table.sin, sin)] {
        let row = &found[300 * cos.len()..];
        // A difference in the last bit of the frequency changes the angle by 300 times as much.
        assert!(row.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 2e-5));
    }
}

#[test]
fn default_is_a_geometric_series() {
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&RopeConfig::new(10_000.0), 8);
    assert_close(&frequencies, &[1.0, 0.1, 0.01, 0.001]);
    assert_eq!(scale, 1.0);
}

#[test]
fn position_zero_is_not_rotated() {
    let table = RotaryTable::new(&RopeConfig::new(10_000.0), 8, 1);
    assert_eq!((table.cos, table.sin), (vec![1.0; 4], vec![0.0; 4]));
}

#[test]
fn linear() {
    let rope = RopeConfig { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 2.5 } };
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&rope, 8);
    assert_close(&frequencies, &[0.4, 0.04, 0.0039999997, 0.00040000002]);
    assert_eq!(scale, 1.0);
    let cos = [0.81418097, 0.84385395, 0.36235783, 0.99280864];
    let sin = [0.58061117, -0.53657293, 0.9320391, 0.11971221];
    assert_table(&rope, &cos, &sin);
}

#[test]
fn llama3() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 128 };
    let rope = RopeConfig { theta: 10_000.0, scaling };
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&rope, 16);
    let expected = [1.0, 0.31622776, 0.04275118, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-5];
    assert_close(&frequencies, &expected);
    assert_eq!(scale, 1.0);
    let cos = [-0.022096619, 0.81355745, 0.9666509, 0.3755055, 0.9305076, 0.99297696, 0.99929696, 0.99992967];
    let sin = [-0.99975586, 0.58148456, 0.2560976, 0.92682016, 0.36627254, 0.11830768, 0.037491214, 0.011858264];
    assert_table(&rope, &cos, &sin);
}

fn yarn(factor: f64, mscale: Option<(f64, f64)>, truncate: bool) -> RopeConfig {
    let scaling = RopeScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_positions: 512,
        attention_factor: None,
        mscale: mscale.map(|(mscale, _)| mscale),
        mscale_all_dim: mscale.map(|(_, all)| all),
        truncate,
    };
    RopeConfig { theta: 10_000.0, scaling }
}

#[test]
fn yarn_with_inferred_scale() {
    let rope = yarn(4.0, None, true);
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&rope, 16);
    let expected = [1.0, 0.25693506, 0.0625, 0.013834965, 0.0025, 0.00079056947, 0.00025, 7.905695e-5];
    assert_close(&frequencies, &expected);
    assert_close(&[scale], &[1.1386294]);
    let cos = [-0.02515986, -0.12669499, 1.1329914, -0.6066553, 0.8331225, 1.1067553, 1.1354285, 1.1383092];
    let sin = [-1.1383514, 1.1315589, -0.11317015, -0.9635592, 0.77613395, 0.2675251, 0.08531717, 0.027002437];
    assert_table(&rope, &cos, &sin);
}

#[test]
fn yarn_with_mscale_and_a_ramp_between_dimensions() {
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&yarn(40.0, Some((1.0, 0.7)), false), 16);
    let expected = [1.0, 0.2969601, 0.06151823, 0.009211534, 0.00025, 7.905695e-5, 2.5e-5, 7.9056945e-6];
    assert_close(&frequencies, &expected);
    assert_close(&[scale], &[1.0879546]);
}

#[test]
fn a_given_attention_factor_wins() {
    let mut rope = yarn(4.0, Some((1.0, 0.7)), true);
    if let RopeScaling::Yarn { attention_factor, .. } = &mut rope.scaling {
        *attention_factor = Some(1.25);
    }
    assert_eq!(RotaryTable::inverse_frequencies(&rope, 16).1, 1.25);
}

/// The numbers come from `transformers` 5.24.0: `Phi3RotaryEmbedding` for 1 and for 100 positions.
#[test]
fn longrope_has_other_frequencies_for_longer_sequences() {
    let scaling = RopeScaling::LongRope {
        short: vec![1.0, 1.1, 1.3, 2.0],
        long: vec![1.0, 2.0, 3.5, 5.0],
        original_max_positions: 64,
        factor: 4.0,
        attention_factor: None,
    };
    let rope = RopeConfig { theta: 10_000.0, scaling };
    let (frequencies, scale) = RotaryTable::inverse_frequencies(&rope, 8);
    assert_close(&frequencies, &[1.0, 0.090_909_09, 0.007_692_307_7, 0.000_5]);
    assert_close(&[scale], &[1.154_700_5]);
    let (limit, frequencies) = RotaryTable::long_frequencies(&rope, 8).expect("two sets of factors");
    assert_eq!(limit, 64);
    assert_close(&frequencies, &[1.0, 0.05, 0.002_857_142_8, 0.000_2]);
    assert_eq!(RotaryTable::long_frequencies(&RopeConfig::new(10_000.0), 8), None);
}
