"""RS-JCIF: joint compression and indexing of remote-sensing archives; the codes come from the compressed latent."""
