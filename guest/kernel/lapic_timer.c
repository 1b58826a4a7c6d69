
/*
 * Appended to arch/x86/kernel/apic/apic.c by guest/kernel/build.
 *
 * lapic_timer_khz=: the clock that drives the local APIC timer. An emulated one is exact, and to know it skips what
 * the kernel does otherwise on a machine without TSC deadline timer: 100 ms of measuring, and 100 ms of comparing with
 * the PIT's interrupts, after which a guest whose host was too busy to deliver those in time runs without a local timer.
 * Nor is there anything to refine tsc_early_khz with: without that to wait for, the time stamp counter becomes the clock at once
 * and not, by a stop of the whole machine, a second and a half later, in whatever went on from an image made before.
 */
static int __init setup_lapic_timer_khz(char *arg)
{
	unsigned int khz;

	if (!arg || kstrtouint(arg, 10, &khz) || khz > 4000000)
		return -EINVAL;
	lapic_timer_period = khz * (1000 / HZ);
	setup_force_cpu_cap(X86_FEATURE_TSC_KNOWN_FREQ);
	return 0;
}
early_param("lapic_timer_khz", setup_lapic_timer_khz);
