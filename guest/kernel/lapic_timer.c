
/*
 * Appended to arch/x86/kernel/apic/apic.c by guest/kernel/build.
 *
 * lapic_timer_khz=: the clock that drives the local APIC timer. An emulated one is exact, and to know it skips what
 * the kernel does otherwise on a machine without TSC deadline timer: 100 ms of measuring, and 100 ms of comparing with
 * the PIT's interrupts, after which a guest whose host was too busy to deliver those in time runs without a local timer.
 */
static int __init setup_lapic_timer_khz(char *arg)
{
	unsigned int khz;

	if (!arg || kstrtouint(arg, 10, &khz) || khz > 4000000)
		return -EINVAL;
	lapic_timer_period = khz * (1000 / HZ);
	return 0;
}
early_param("lapic_timer_khz", setup_lapic_timer_khz);
