/// An error of a device or a compute type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Unknown device name.
    #[error("unknown device {name:?}, expected one of {known}")]
    Unknown {
        /// The requested name.
        name: String,
        /// The names of all backends.
        known: String,
    },
    /// The backend is not built in.
    #[error("device {name:?} needs the feature `{feature}` of pv-model, which this program was built without")]
    NotBuilt {
        /// The requested device.
        name: String,
        /// The feature to enable.
        feature: &'static str,
    },
    /// The machine does not have the device.
    #[error("device {name:?} not found on this machine (the backend finds {found} devices)")]
    NotFound {
        /// The requested device.
        name: String,
        /// The number of devices that the backend finds.
        found: usize,
    },
    /// The device does not support the compute type.
    #[error("{device} cannot compute in {dtype}")]
    DtypeUnsupported {
        /// The device.
        device: String,
        /// The type.
        dtype: String,
    },
    /// Unknown compute type.
    #[error("unknown compute type {name:?}, expected f32, f16 or bf16")]
    UnknownDtype {
        /// The requested name.
        name: String,
    },
    /// The backend panicked while it opened the device, as it does without a driver.
    #[error("device {name:?} cannot be opened: {}", message.as_deref().unwrap_or("the backend panicked"))]
    Panicked {
        /// The requested device.
        name: String,
        /// The backend's message, if it has one.
        message: Option<String>,
    },
    /// The environment variable `PV_SIMD` names no instruction set of the CPU.
    #[error(transparent)]
    Simd(#[from] pv_kernels::simd::SimdError),
    /// The device failed while computing or returning a result.
    #[error("the device failed")]
    Failed {
        /// The backend's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
