// All that generated code includes.
#pragma once
#include "access.h"
#include "collectives.h"
#include "here.h"
#include "integers.h"
#include "kernel.h"
#include "numbers.h"
#include "packed.h"
#include "rounding.h"
