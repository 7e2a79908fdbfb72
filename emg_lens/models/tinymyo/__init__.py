"""TinyMyo (Fasulo et al. 2025): configuration, encoder, heads, published weights."""
