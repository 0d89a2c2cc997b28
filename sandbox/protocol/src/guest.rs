//! What those who start an agent as the init of a VM agree on with it.
//!
//! ```text
//!   kernel command line:  WATERWHEEL_GUEST=serve WATERWHEEL_TMP_BYTES=536870912   the kernel hands words that it does not
//!                                                                                 know, and that have no dot before the
//!                                                                                 sign, to init as variables
//!   /dev/vda              root image (erofs)         becomes /, read-only
//!   /dev/vdb              code image (squashfs)      becomes /var/task, read-only
//!   vsock (CID 2, 1024)   the frames of this crate   the agent connects, once; the VM does not outlive the host's side of it
//! ```

/// Tells the program that it is the init of a VM, and what for: [`SERVE`] or [`PROBE`].
pub const VARIABLE: &str = "WATERWHEEL_GUEST";

/// To make an environment, as a jail would have, and serve in it.
pub const SERVE: &str = "serve";

/// To say `Hello` and nothing else: shows that this machine boots VMs. No image is needed.
pub const PROBE: &str = "probe";

/// Size of `/tmp`, bytes. Required to serve.
pub const TMP_BYTES_VARIABLE: &str = "WATERWHEEL_TMP_BYTES";

pub const ROOT_DEVICE: &str = "/dev/vda";
pub const CODE_DEVICE: &str = "/dev/vdb";

/// The host's address in every vsock (`VMADDR_CID_HOST`, linux/vm_sockets.h).
pub const HOST_CID: u32 = 2;
/// The guest's. Each VM has a vsock of its own, so all may have the same: the first that is nobody's.
pub const GUEST_CID: u32 = 3;
/// Where the host listens for the agent.
pub const PORT: u32 = 1024;
