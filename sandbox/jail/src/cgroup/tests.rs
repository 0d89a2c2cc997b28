use super::*;

#[test]
fn one_vcpu_for_each_1769_mb() {
    assert_eq!(
        cpu_quota_for(1769),
        CpuQuota {
            quota_us: 20_000,
            period_us: 20_000
        }
    );
    assert_eq!(
        cpu_quota_for(2 * 1769),
        CpuQuota {
            quota_us: 40_000,
            period_us: 20_000
        }
    );
    assert_eq!(cpu_quota_for(128).quota_us, 1_447);
    assert_eq!(cpu_quota_for(1).quota_us, MIN_CPU_QUOTA_US);
}
