"""Why large coefficients break a model: response, limit, causes, remedies."""
