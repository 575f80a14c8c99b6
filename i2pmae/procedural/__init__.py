"""Procedural shapes: twelve classes for the demo, random ones without end to pre-train on."""
