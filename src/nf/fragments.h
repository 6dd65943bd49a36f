/*
 * fragments.h - the stage before all functions: which flow a fragment belongs to.
 *
 * It is in front of every chain that has a function with '.needs_ports', and not in the
 * list of functions: a file does not name it, but may have a section for it.
 */
#ifndef NF_FRAGMENTS_H
#define NF_FRAGMENTS_H

#include "nf/nf.h"

extern const struct nf nf_fragments;

#endif
