"""Methods trained side by side under equal conditions."""
