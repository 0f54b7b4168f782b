from maskrestore.distributed import launchers

launchers.withhold()
