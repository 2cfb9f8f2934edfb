//! Devices by name. No other module knows which backends are built in.

use burn::tensor::{DType, Device};
use pv_kernels::pool::in_pool;

pub use error::DeviceError;

mod error;

/// The backend names, and the feature of this crate that builds each in.
const BACKENDS: [(&str, &str); 7] = [
    ("flex", ""),
    ("wgpu", "wgpu"),
    ("vulkan", "vulkan"),
    ("metal", "metal"),
    ("webgpu", "webgpu"),
    ("cuda", "cuda"),
    ("rocm", "rocm"),
];

/// A device by name: `flex` (the CPU, always built in; also `cpu`), `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda` or
/// `rocm`.
///
/// `cuda:1` and `rocm:1` are a GPU by index; `wgpu:0`, `vulkan:0` and so on the first discrete GPU, `wgpu:cpu` a
/// software adapter. Without an index the backend chooses.
///
/// # Errors
/// [`DeviceError::Unknown`]; [`DeviceError::NotBuilt`] if the backend's feature is off; [`DeviceError::NotFound`] if
/// this machine has no such device; [`DeviceError::Panicked`] if it cannot be opened; [`DeviceError::Simd`]
/// for the CPU if `PV_SIMD` has an unknown value.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => (backend, Some(index)),
        None => (name, None),
    };
    let backend = if backend == "cpu" { "flex" } else { backend };
    let unknown = || {
        let known = BACKENDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        DeviceError::Unknown { name: name.to_owned(), known }
    };
    let Some((backend, feature)) = BACKENDS.into_iter().find(|(known, _)| *known == backend) else {
        return Err(unknown());
    };
    match (backend, index) {
        ("flex", None) => {
            pv_kernels::simd::check()?;
            Ok(Device::flex())
        }
        ("flex", Some(_)) => Err(unknown()),
        #[cfg(feature = "cuda")]
        ("cuda", _) => indexed(name, index, burn::tensor::DeviceType::Cuda, Device::cuda),
        #[cfg(feature = "rocm")]
        ("rocm", _) => indexed(name, index, burn::tensor::DeviceType::Rocm, Device::rocm),
        #[cfg(feature = "wgpu")]
        ("wgpu", _) => adapter(name, index, burn::tensor::DeviceType::Wgpu, Device::wgpu),
        #[cfg(feature = "vulkan")]
        ("vulkan", _) => adapter(name, index, burn::tensor::DeviceType::Vulkan, Device::vulkan),
        #[cfg(feature = "metal")]
        ("metal", _) => adapter(name, index, burn::tensor::DeviceType::Metal, Device::metal),
        #[cfg(feature = "webgpu")]
        ("webgpu", _) => adapter(name, index, burn::tensor::DeviceType::WebGpu, Device::webgpu),
        _ => Err(DeviceError::NotBuilt { name: name.to_owned(), feature }),
    }
}

/// The first available device of the backends that are built in: CUDA, ROCm, Metal, Vulkan, WebGPU, WGPU, and the CPU.
/// A backend that is built in and has no device is skipped with a warning.
pub fn default_device() -> Device {
    for name in ["cuda", "rocm", "metal", "vulkan", "webgpu", "wgpu"] {
        match device(name) {
            Ok(device) => return device,
            Err(DeviceError::NotBuilt { .. }) => {}
            Err(error) => tracing::warn!(%error, "the backend {name} has no usable device"),
        }
    }
    Device::flex()
}

/// Whether a device is the CPU, with or without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    device.clone().without_autodiff() == Device::flex()
}

/// Runs `body`, which computes on a device: on the CPU in a thread pool ([`in_pool`]), so that its kernels share their work
/// with the calling thread; for other devices on the calling thread, since a GPU has a queue for each thread that gives it
/// work and waits where one needs the results of another.
pub fn run_on<R: Send>(device: &Device, body: impl FnOnce() -> R + Send) -> R {
    if is_cpu(device) { in_pool(body) } else { body() }
}

/// The default compute type of a device: f32 on the CPU and through WGPU, bf16 on GPUs that support it.
pub fn default_dtype(device: &Device) -> DType {
    let name = format!("{device:?}").to_lowercase();
    let datacentre = name.contains("cuda") || name.contains("rocm") || name.contains("hip");
    if datacentre && device.supports_dtype(DType::BF16) { DType::BF16 } else { DType::F32 }
}

/// A compute type by name: `f32`, `f16` or `bf16`.
///
/// # Errors
/// [`DeviceError::UnknownDtype`] for any other name.
pub fn dtype(name: &str) -> Result<DType, DeviceError> {
    match name {
        "f32" | "float32" => Ok(DType::F32),
        "f16" | "float16" => Ok(DType::F16),
        "bf16" | "bfloat16" => Ok(DType::BF16),
        _ => Err(DeviceError::UnknownDtype { name: name.to_owned() }),
    }
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
fn indexed(
    name: &str,
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    make: impl Fn(burn::tensor::DeviceIndex) -> Device,
) -> Result<Device, DeviceError> {
    use burn::tensor::DeviceIndex;
    let found = caught(name, || Device::enumerate(kind).len())?;
    let none = || DeviceError::NotFound { name: name.to_owned(), found };
    let index = index.map_or(Ok(0), |text| text.parse::<usize>().map_err(|_| none()))?;
    if index >= found {
        return Err(none());
    }
    opened(name, || make(DeviceIndex::Specified(index)))
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "webgpu"))]
fn adapter(
    name: &str,
    index: Option<&str>,
    kind: burn::tensor::DeviceType,
    make: impl Fn(burn::tensor::DeviceKind) -> Device,
) -> Result<Device, DeviceError> {
    use burn::tensor::DeviceKind;
    let found = caught(name, || Device::enumerate(kind).len())?;
    let none = || DeviceError::NotFound { name: name.to_owned(), found };
    let number = match index {
        None | Some("cpu") => 0,
        Some(text) => text.parse().map_err(|_| none())?,
    };
    if number >= found {
        return Err(none());
    }
    opened(name, || {
        make(match index {
            None => DeviceKind::DefaultDevice,
            Some("cpu") => DeviceKind::Cpu,
            Some(_) => DeviceKind::DiscreteGpu(number),
        })
    })
}

/// Opens a device by computing something on it: Burn opens a device at its first use, and panics if there is none.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "wgpu"))]
fn opened(name: &str, make: impl FnOnce() -> Device) -> Result<Device, DeviceError> {
    caught(name, || {
        let device = make();
        let one = burn::tensor::Tensor::<1>::ones([1], (&device, DType::F32));
        (one + 1.0).try_into_data().map(|_| device)
    })?
    .map_err(|source| DeviceError::Failed { source: source.into() })
}

/// Runs code of a backend, which panics without a driver or a device.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "wgpu"))]
fn caught<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, DeviceError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        DeviceError::Panicked { name: name.to_owned(), message: said.map(str::to_owned) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_or_refused_by_name() {
        assert_eq!(device("flex").expect("the CPU is always there"), device("cpu").expect("an alias"));
        assert!(matches!(device("tpu"), Err(DeviceError::Unknown { name, .. }) if name == "tpu"));
        assert!(matches!(device("flex:1"), Err(DeviceError::Unknown { .. })));
        for name in ["wgpu:7", "vulkan:3", "cuda:99", "webgpu:x", "rocm:-1", "cuda:"] {
            let error = device(name).expect_err("no such device here");
            let expected = matches!(
                error,
                DeviceError::NotBuilt { .. } | DeviceError::NotFound { .. } | DeviceError::Panicked { .. }
            );
            assert!(expected && error.to_string().contains(name.split(':').next().expect("a name")), "{error}");
        }
        #[cfg(not(feature = "metal"))]
        assert!(matches!(device("metal"), Err(DeviceError::NotBuilt { feature: "metal", .. })));
    }
    #[test]
    fn a_backend_that_gives_up_is_an_error() {
        let error = opened("wgpu:7", || panic!("Unable to acquire wgpu device")).expect_err("it gives up");
        assert!(
            matches!(&error, DeviceError::Panicked { message: Some(message), .. } if message.contains("Unable to acquire")),
            "{error}"
        );
        assert!(opened("flex", Device::flex).is_ok());
    }
}
