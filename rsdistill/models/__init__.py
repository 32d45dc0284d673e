"""Networks that students, teachers, matching networks and detectors share."""
