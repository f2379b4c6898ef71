// Operations on the rows of hidden states: norms, rotary embedding with the cache write, gated activations.
#include "parallel.h"
#include "simd.h"
